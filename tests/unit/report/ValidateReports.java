import com.pixelmed.dicom.AttributeList;
import com.pixelmed.validate.DicomSRValidator;

/** Validates many reports in one Java machine: compiling the rules takes most of the time. */
public class ValidateReports {
    public static void main(String[] files) throws Exception {
        DicomSRValidator validator = new DicomSRValidator();
        validator.setOptionCheckTemplateID(true);
        validator.setOptionCheckContentItemOrder(true);
        for (String file : files) {
            AttributeList list = new AttributeList();
            list.read(file);
            System.out.println("File " + file);
            System.out.println(validator.validate(list));
        }
        System.out.println("All files validated");
    }
}
